"""What a search is shown as: figures and one page."""
