"""Every figure that is derived from evidence, as pure functions of plain numbers.

Nothing here knows where evidence is stored or how joules are modelled: `flows.reports.figures` turns stored rows and
coefficients into the values of `tasks.evaluation.figures`.
"""
