"""Names of the classes that a model tells apart, where its weights say which they are."""

from workbench.app import session
from workbench.app.session import Spec
from workbench.results.class_names import class_name


def class_names(spec: Spec, count: int) -> list[str]:
    """A name for each of `count` classes: those that were trained for, else "class 3"."""
    known = session.facts(spec).get("class_names", ())
    return [class_name(known, i) for i in range(count)]
