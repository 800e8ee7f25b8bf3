"""YAML files of a given form: read, checked, and every fault told by line and column. Pure."""
