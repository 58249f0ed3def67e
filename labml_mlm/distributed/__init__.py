"""TODO."""


def __getattr__(name: str):
    if name == 'ranks':
        from labml_mlm.distributed.process_group import ranks
        return ranks
    raise AttributeError(name)
