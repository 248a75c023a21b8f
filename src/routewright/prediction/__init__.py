"""What a prompt tells before anybody is asked: encoders, predictors, costs, novelty."""
