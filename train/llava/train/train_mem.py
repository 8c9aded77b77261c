"""Entry point of the stage scripts, under the name that LLaVA's users know."""

from llava.train.train import train

if __name__ == "__main__":
    train()
