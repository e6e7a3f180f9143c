"""Predictions of 1 to 4096 rows in fastnn and in every peer that is installed: `fastnn bench predict`."""

import beside_peers

if __name__ == "__main__":
    beside_peers.run("predict")
