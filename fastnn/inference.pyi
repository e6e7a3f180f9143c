BUILD: str
