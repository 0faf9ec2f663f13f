"""A teacher whose answers stop being numbers."""


class NoNumbers:
    def __init__(self, inner, after):
        self.fingerprint, self.provides, self.module = "nan", inner.provides, None
        self._inner, self._left = inner, after

    def observe(self, batch, needs):
        self._left -= 1
        seen = self._inner.observe(batch, needs)
        return seen if self._left >= 0 else {name: value * float("nan") for name, value in seen.items()}
