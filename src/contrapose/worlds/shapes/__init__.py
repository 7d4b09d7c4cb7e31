"""The shapes world: a tiny text-to-image world with known answers, and the model that ships with Contrapose."""
