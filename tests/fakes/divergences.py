"""Every token divergence: the public function, its definition, its parameters."""

from limbeck import losses
from limbeck.losses import divergences as d

CASES = {
    "forward-kl": (losses.forward_kl, d.ForwardKl, ()),
    "reverse-kl": (losses.reverse_kl, d.ReverseKl, ()),
    "jensen-shannon": (losses.jensen_shannon, d.JensenShannon, (0.5,)),
    "jensen-shannon-0.1": (losses.jensen_shannon, d.JensenShannon, (0.1,)),
    "jensen-shannon-0.9": (losses.jensen_shannon, d.JensenShannon, (0.9,)),
    "continuous-0": (losses.continuous_jensen_shannon, d.ContinuousJensenShannon, (0.0,)),
    "continuous-0.3": (losses.continuous_jensen_shannon, d.ContinuousJensenShannon, (0.3,)),
    "continuous-1": (losses.continuous_jensen_shannon, d.ContinuousJensenShannon, (1.0,)),
    "skew-0": (losses.skew_kl, d.SkewKl, (0.0,)),
    "skew-0.1": (losses.skew_kl, d.SkewKl, (0.1,)),
    "skew-0.7": (losses.skew_kl, d.SkewKl, (0.7,)),
    "skew-reverse-0": (losses.skew_reverse_kl, d.SkewReverseKl, (0.0,)),
    "skew-reverse-0.1": (losses.skew_reverse_kl, d.SkewReverseKl, (0.1,)),
    "skew-reverse-0.7": (losses.skew_reverse_kl, d.SkewReverseKl, (0.7,)),
    "total-variation": (losses.total_variation, d.TotalVariation, ()),
    "adaptive": (losses.adaptive_kl, d.AdaptiveKl, (0.5,)),
    "adaptive-0.9": (losses.adaptive_kl, d.AdaptiveKl, (0.9,)),
    "alpha-beta": (losses.alpha_beta, d.AlphaBeta, (0.2, 0.7)),
    "alpha-beta-2-0.5": (losses.alpha_beta, d.AlphaBeta, (2.0, 0.5)),
    "alpha-beta-1-0": (losses.alpha_beta, d.AlphaBeta, (1.0, 0.0)),
    "alpha-beta-0-1": (losses.alpha_beta, d.AlphaBeta, (0.0, 1.0)),
    "alpha-beta-0.4-0": (losses.alpha_beta, d.AlphaBeta, (0.4, 0.0)),
    "alpha-beta-0-0.4": (losses.alpha_beta, d.AlphaBeta, (0.0, 0.4)),
}
