"""Figures, tables and widgets of the notebooks. No file of the method imports them."""
