"""Reports of runs and studies as text, HTML and exports."""
