"""The same updates in less time: what makes SB3's faster from outside, and SAC's written anew for plain networks."""
