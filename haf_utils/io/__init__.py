"""Reading and writing files safely: the ground that everything stands on. Imports nothing else of the package."""
