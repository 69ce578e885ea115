"""``python -m testnet``: what ``yellowstone testnet`` does, without the rest of the command line."""

from testnet.cli import app

if __name__ == "__main__":
    app(prog_name="python -m testnet")
