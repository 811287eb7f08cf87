"""The zoo: weight, activation and gradient quantizers of many papers, one short file per family.

A method says what each place of the step does (`method.Method`); `registry` has all of them. What
a method puts into a place has one or more of these, each described where it is done:

    __call__(x, key)           a quantizer in the forward pass            quantize.Cast
    module(kernel)             the same with numbers it learns or tracks  nn.hooks, nn.Learned
    module(kernel).layer(...)  does the whole layer                       nn.hooks
    stored = True              applied by the optimizer to wide weights   optim.stored
    optim.Constraint           changes the weights themselves, over time  optim.constrained
"""
