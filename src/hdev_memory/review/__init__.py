"""How people see a plan: compared once into a neutral document, then rendered."""
