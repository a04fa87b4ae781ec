"""What a model remembers of a text, as figures and as one page to look at."""

from receptance.inspection.inspection import Inspection, inspect
from receptance.inspection.page import as_page
from receptance.inspection.report import as_report

__all__ = ["Inspection", "as_page", "as_report", "inspect"]
