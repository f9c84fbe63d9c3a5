"""Break-even sizes, costs, benefits and risks, from stored evidence and assumptions that the reader can change.

`assumptions` and the YAML files beside it hold what is assumed; `scaling`, `crossing`, `needs`, `sensitivity`,
`ownership` and `fault_tolerant` are pure functions of plain numbers. `flows.reports.outlook` builds the report.
"""
