"""The DDIM paper's tables and figures for one run, each a module that measures, draws and tells.

study          -> `Study`: the run, its images, and results that are kept with their recipe
quality        -> table 1 and figure 3: quality over eta and S
timing         -> figure 4: seconds over S, and what DDIM saves
consistency    -> figure 5: one x_T, several S
interpolation  -> figures 6 and 11-13: slerp on a line and between four corners
reconstruction -> table 2: to x_T and back
ode            -> equations 13-14: DDIM against Euler
plots          -> their pictures
texts          -> tables and numbers in Markdown

`measure(study)` returns a record that goes into the JSON, and `lines(record)` the Markdown that
follows from its numbers; every sentence that judges is chosen by them.
"""
