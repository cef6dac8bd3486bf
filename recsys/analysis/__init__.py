"""Factors → tables and plotly figures, and one HTML file that shows them. Arrays in, figures out."""
