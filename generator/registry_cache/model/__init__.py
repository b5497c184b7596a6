"""The contract: RegistryConfig v1alpha3 and the values that the chart adds to it.

values.schema.json, values.yaml and the reference in the chart's README are made from these classes. `title` says what
a value is, in words that an error message can use; `description` becomes the comment in values.yaml.
"""
