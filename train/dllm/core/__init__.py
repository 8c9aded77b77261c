"""The only place of noise, loss, attention pattern and denoising.

Shape legend of the whole package: B batch, P prompt tokens, R response tokens, L = P + R, D hidden, V vocabulary.
"""
