"""What the page says about each experiment beside its figures: method, reading, and what is argument."""

INTRODUCTION = """\
# What each side can learn: attacks on hegpu

Every figure below is made by `python -m bench.privacy` and can be made again; this page is written from them by
`python -m bench.privacy.render`. Each attack comes with **controls**: variants that are broken on purpose and that the
same attack has to catch, since an attack that catches nothing proves nothing.

**What is claimed.** Parties follow the protocol and try to learn from what they see (semi-honest). Integrity of the image
is *not* promised: a server that computes something else yields another image, and nothing here would notice.

**What is empirical and what is argument.** That a trained network or an algebraic test fails is evidence that *this* attack
fails, no more. That no attack does better rests on ring-LWE at the parameters of the 2024 security guidelines, on
ChaCha20, and on the arguments written under each experiment. Intervals are Clopper-Pearson at 99.95 %, so that a run of
all experiments fails by luck about once in a hundred.
"""

METHOD = {
    "a": """\
*Method.* The two-image game: a slice of air (-1024 HU) or of metal (3000 HU) is denoised; the attacker gets the server's
whole view (every request: seeds, packed c0; and the answers that it computes itself) and guesses which. Attackers: a
network and a logistic regression trained on features of whole transcripts (seed bytes, and of every message the histogram,
moments, correlation with neighbours, extremes), the same on raw residues of single polynomials, and algebra (assume a
message, solve for the secret, look whether it is ternary; subtract two ciphertexts). The figures are the share of right
guesses on games not trained on. Samplers are tested by chi-squared on their own output; the noise is read from
ciphertexts with the secret. A convolutional network learns to draw the slice from c0 and c1 of fresh ciphertexts, and the
same network from the plaintext's integers.""",
    "b": """\
*Method.* The client is the attacker. Over `client-relu` it holds each layer's inputs (it encrypted them) and outputs (it
decrypted them): least squares of one on the other, one slice. Over `linear` it holds the secret, so it reads its own noise
and the answer's: it divides c1 by c1 at every NTT point, and fits the answer's noise to its own. Last, least squares on
plain input and output images, which no cryptography can prevent. Errors are |w - w'| / |w|; 1 is what the guess 0 achieves.""",
    "c": """\
*Method.* Two filters of the same integer sum give the same image of a constant slice, so only noise can tell them apart.
The client holds the secret and knows its own noise e; it computes what filter A and what filter B would make of e and
takes the nearer (the best test there is, if the rest is Gaussian). Advantage is 2 P(right) - 1. The server without
flooding, and with any width of it, is made of hegpu's primitives; `denoise_slice` itself has no such switch. Prediction:
erf(d / sqrt(8)), where d is the distance of the two hypotheses in standard deviations of the flooding and of the
encryption of zero.""",
    "d": """\
*Method.* The client shares the decrypted image, rounded to whole HU, and the server knows the slice. Its own rounding r1
of c1 at the modulus switch is known to it, so each pixel is a linear equation in the secret, the rounding to HU its noise.
Least squares (conjugate gradients over FFTs), nearest trits. The unit of leak is the bound of the design,
pixels sigma^2 / ((2n/3)/12) with sigma the part of the evaluation's noise that depends on s, in HU; the share of trits
that it yields follows from it. `linear` on the shipped preset; `client-relu` on the key of the round before the last,
whose noise reaches the image through the last layer alone (the server of this attack uses its own float64 network).""",
    "e": """\
*Method.* After dudect: encryption of air and of a slice that is random at every pixel and far over the ends of the scale,
in random order, one thread; Welch's t of the ranks and over four cuts of the slow tail, the
largest |t| counts. Lengths and numbers of
messages are compared exactly.""",
}

READING = {
    "a": """\
*Argument.* Each round has a fresh uniform ternary secret, fresh noise and a fresh seed, and no stream is used twice, so each
round is ring-LWE with n = 4096 and log2 q of at most 60 (106 would be allowed), rounding of c0 is a function of the
ciphertext, and rounds are exchanged for uniform ones one after another (hybrid argument). The trained attackers are blind
to missing noise, which algebra finds at once: their failure alone would mean little.""",
    "b": """\
*Reading.* `client-relu` gives the model away by design: it is for clients who may hold it. Channels that a slice never
excites stay unknown from that slice; the client may send another. Over `linear` these two attacks find nothing in
the ciphertexts. But a linear filter *is* its outputs: from one image it follows to a few parts in 10^5.""",
    "c": """\
*Argument.* The total variation between W e + E and E is at most 2^-40 over all pixels of one slice, by the width of E
alone; k slices answered under one filter add up to at most k 2^-40. All filters are given the
same width and scale, by bounds that do not look at them: an earlier version followed the filter's norm, and the last two
attacks read it off (40 of 40 games).""",
    "d": """\
*Reading.* With one key for many slices the secret falls, and the formula says when. hegpu takes a new key for each slice
(`linear`) or round (`client-relu`). In `compact` the noise is as large as the budget allows, so a shared image can tell
the server a good part of the key *of a round*; that key opens only that round of that slice, which the server had to know
already to mount the attack. A *malicious* server that also sees images can do far more, and is excluded: nothing about the
final image may come back to the server.""",
    "e": """\
*Reading.* A t-test that finds nothing bounds the leak at this number of runs on this machine. The argument is the code: no
branch, address or size depends on a pixel (values are clipped by arithmetic, samplers have fixed consumption).""",
}
