"""Why a guest keeps the lab waiting: looked at from outside before it is ended, and classed."""
