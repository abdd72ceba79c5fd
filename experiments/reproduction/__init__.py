"""The DDIM paper's tables and figures for one run; each module measures, draws and reports.

study          -> `Study`: the run, its images, and results saved with their recipe
quality        -> table 1 and figure 3: quality over eta and S
findings       -> table 1 in Markdown, and what its numbers say
timing         -> figure 4: seconds over S, and the speed-up of DDIM
consistency    -> figure 5: one x_T, several S
interpolation  -> figures 6 and 11-13: slerp on a line and between four corners
reconstruction -> table 2: encoding to x_T and decoding
ode            -> equations 13-14: DDIM against Euler
plots          -> the pictures of all parts
texts          -> tables and numbers in Markdown

`measure(study)` returns a record for the JSON file, and `lines(record)` its Markdown. Every verdict
in the Markdown is chosen by the numbers of the record.
"""
