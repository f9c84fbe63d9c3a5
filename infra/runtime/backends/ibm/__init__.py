"""The road to IBM hardware; the only place that imports the vendor's client."""
