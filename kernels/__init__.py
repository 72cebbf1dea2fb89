"""The one selective scan of the workbench."""
