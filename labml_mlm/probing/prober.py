"""A probe during training."""
from labml_mlm.distributed.process_group import Ranks
from labml_mlm.model.transformer import TransformerMLM
from labml_mlm.probing.features import Place
from labml_mlm.probing.probe import ProbeData, probe
from labml_mlm.training.state import rng_state, set_rng_state


class Prober:
    """
    ## Probes a model while it is trained, and leaves no trace in it

    * `sha256` is a fingerprint of the texts and labels that `data` was made of
    * `every` is the number of validations from one probe to the next
    * `is_sharded`: does each rank hold a part of the model? Then all compute features together; otherwise the main rank
      does, and in either case it alone learns from them
    """

    def __init__(self, data: ProbeData, *, sha256: str, every: int, ranks: Ranks, is_sharded: bool):
        self.data = data
        self.sha256 = sha256
        self.every = every
        self._ranks = ranks
        self._is_sharded = is_sharded

    def __call__(self, model: TransformerMLM, *, n_validations: int) -> dict[str, float]:
        """
        The accuracy of a probe on the middle and the last layer, by the name of the metric, after so many validations;
        empty if none is due, and at ranks other than the main one.
        """
        if n_validations % self.every or not (self._ranks.is_main or self._is_sharded):
            return {}
        n_layers = len(model.encoder.layers)
        places = {'middle': Place((n_layers + 1) // 2, 'mean'), 'last': Place(n_layers, 'mean')}
        before = rng_state()
        try:
            found = probe(model, self.data, list(dict.fromkeys(places.values())), is_fitted=self._ranks.is_main)
        finally:
            set_rng_state(before)
        accuracies = {Place(probed.layer, probed.pooling): probed.accuracy for probed in found}
        return {f'probe.accuracy.{name}': accuracies[place] for name, place in places.items() if place in accuracies}
