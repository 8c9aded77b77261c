"""Model families of the masked-diffusion core, one thin folder each."""
