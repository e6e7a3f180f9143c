"""One mini-batch step in fastnn and in every peer that is installed: `fastnn bench train`."""

import beside_peers

if __name__ == "__main__":
    beside_peers.run("train")
