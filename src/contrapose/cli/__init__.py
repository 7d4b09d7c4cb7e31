"""The command line; each command is a thin shell around one function of the package."""
