"""Rows and columns of tables: CSV, JSON, Parquet and Arrow."""
