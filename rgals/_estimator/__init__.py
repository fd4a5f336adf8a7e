"""The parts of `rgals.RankingALS`; import that class instead."""
