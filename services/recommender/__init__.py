"""The recommendation service: top-k lists over HTTP from the models of a registry; ``docs/service.md``."""
