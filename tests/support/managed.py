"""A class of one's own that tests register with managers."""


class Counter:
    def __init__(self, start=0):
        self.count = start

    def up(self, by=1):
        self.count += by
        return self.count

    def fail(self):
        raise ValueError("from the manager")

    def _hidden(self):
        return "hidden"
