"""Everything that speaks SQL: engine, schema, and one module for each thing that is stored."""
