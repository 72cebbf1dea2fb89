"""Scan maps: which cells each scan direction carries to a place, exactly, layer by layer.

For a query cell, the row of the hidden attention (what reaches the query) and the column (where the
query goes), in image order, for every direction and for the sum of the directions; beside them the
diagonal and the statistics of the scan's coefficients.
"""

from workbench.methods.method import Method
from workbench.methods.scan_maps.config import ScanMapsConfig


class ScanMaps(Method):
    name = "scan-maps"
    Config = ScanMapsConfig


method = ScanMaps()
