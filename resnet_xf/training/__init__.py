"""Training as data and one loop: recipes, runs on disk, evaluation and prediction."""
