"""The rows of the schema, one file a subject."""
