"""Prefect flows, studies, reports and the command line. Algorithms are in `tasks`."""

from infra.settings import environment

if environment("PREFECT__FLOW_RUN_ID"):  # the process of a flow run that a worker started
    from infra.installation.flow_runs import outlast_restarts

    outlast_restarts()
