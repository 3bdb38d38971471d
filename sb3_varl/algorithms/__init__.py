"""VARL and its sisters: off-policy algorithms whose actor is pulled towards guidance until a cutoff, or on demand."""
