"""Reading that says what was read, and that a kill ends where it is told to."""


class Reads:
    """Waveforms of recordings; which were read, and a kill where one is."""

    def __init__(self, made, killed_at=None):
        self.made, self.killed_at, self.seen = made, killed_at, []

    def __call__(self, index):
        self.seen.append(index)
        if index == self.killed_at:
            raise KeyboardInterrupt
        return self.made.read(index)
