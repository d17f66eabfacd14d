"""The method in the plain way, as its published implementation computes it: what speed is held to.

Written from the equations, without looking for speed and without looking into anybody's code. Each
module names the part of the paper that it computes and the function of `pipeline` that gives the
same.
"""
