import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from labml_mlm.training.serialization import pack, unpack

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
keys = st.text() | st.integers() | st.just('$tensor') | st.just('$items')
nested = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner) |
                      st.lists(inner).map(tuple), max_leaves=20)


def through_json(value):
    return json.loads(json.dumps(value))


@given(nested)
def test_unpack_returns_what_was_packed(value):
    assert unpack(through_json(pack(value, {})), {}) == value


def test_tensors_go_to_the_table():
    state = {'state': {0: {'step': torch.tensor(3.), 'exp_avg': torch.ones(2, 3).T}, 1: {'step': 4}},
             'groups': [{'betas': (0.9, 0.98), 'params': [0, 1]}]}
    tensors = {}
    packed = through_json(pack(state, tensors))
    assert set(tensors) == {'state.0.step', 'state.0.exp_avg'}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    unpacked = unpack(packed, tensors)
    assert torch.equal(unpacked['state'][0]['exp_avg'], state['state'][0]['exp_avg'])
    assert unpacked['groups'] == state['groups'] and unpacked['state'][1] == {'step': 4}
    # Copies both ways: further training does not change what was saved
    state['state'][0]['exp_avg'].zero_()
    unpacked['state'][0]['exp_avg'].zero_()
    assert tensors['state.0.exp_avg'].sum() == 6


def test_equal_dotted_names_do_not_collide():
    state = {'a': {'b': torch.zeros(1)}, 'a.b': torch.ones(1), 'c': [torch.full((1,), 2.)], 'c.0': torch.full((1,), 3.)}
    tensors = {}
    unpacked = unpack(through_json(pack(state, tensors)), tensors)
    assert [unpacked['a']['b'], unpacked['a.b'], unpacked['c'][0], unpacked['c.0']] == [0., 1., 2., 3.]


def test_objects_cannot_be_packed():
    with pytest.raises(TypeError, match=r'a checkpoint cannot hold a\.0\.b, of type object'):
        pack({'a': [{'b': object()}]}, {})
