"""A training step with Adam beside one with SGD, 100,000 parameters and more: `fastnn bench adam`."""

import beside_peers

if __name__ == "__main__":
    beside_peers.run("adam")
