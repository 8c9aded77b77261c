"""The order of samples: a function of (seed, epoch), whole batches, batches of similar lengths."""

import torch

from dllm.training.order import WINDOW, PositionSampler, Repeated


def test_the_order_is_a_function_of_seed_and_epoch():
    one, other = PositionSampler(10, seed=1), PositionSampler(10, seed=2)
    first = list(one)
    assert list(one) == first and list(other) != first
    one.set_epoch(3)
    assert [position for position, _ in one] == list(range(30, 40))
    assert sorted(index for _, index in one) == list(range(10))
    assert [index for _, index in one] != [index for _, index in first]
    assert list(PositionSampler(3, seed=None)) == [(0, 0), (1, 1), (2, 2)]


def test_an_epoch_is_filled_up_to_whole_batches():
    sampler = PositionSampler(10, seed=1, batch=4)
    sampler.set_epoch(1)
    keys = list(sampler)
    assert len(sampler) == len(keys) == 12
    assert [position for position, _ in keys] == list(range(12, 24))
    assert [index for _, index in keys[10:]] == [index for _, index in keys[:2]]


LENGTHS = torch.randint(10, 400, (1000,), generator=torch.Generator().manual_seed(0)).tolist()


def padding(sampler: PositionSampler) -> float:
    """Share of padding when every batch is padded to its longest sample."""
    order = [LENGTHS[index] for _, index in sampler]
    batches = [order[start : start + sampler.batch] for start in range(0, len(order), sampler.batch)]
    return 1 - sum(order) / sum(len(batch) * max(batch) for batch in batches)


def test_batches_of_similar_lengths_have_little_padding():
    assert padding(PositionSampler(1000, seed=1, batch=8)) > 0.35
    assert padding(PositionSampler(1000, seed=1, batch=8, lengths=LENGTHS)) < 0.03


def test_sorting_keeps_every_sample_and_the_batches_come_in_no_order():
    sampler = PositionSampler(1000, seed=1, batch=8, lengths=LENGTHS)
    keys = list(sampler)
    assert [position for position, _ in keys] == list(range(1000))
    assert sorted(index for _, index in keys) == list(range(1000))
    longest = [max(LENGTHS[index] for _, index in keys[start : start + 8]) for start in range(0, 1000, 8)]
    falls = sum(later < earlier for earlier, later in zip(longest, longest[1:], strict=False))
    assert 40 < falls < 84
    sampler.set_epoch(1)
    assert [index for _, index in sampler] != [index for _, index in keys]


def test_samples_are_sorted_within_windows_only():
    """Else every epoch would hold the same batches."""
    sampler = PositionSampler(2 * WINDOW * 2, seed=1, batch=2, lengths=list(range(2 * WINDOW * 2)))
    gaps = [abs(one - other) for one, other in zip(*[(index for _, index in sampler)] * 2, strict=True)]
    assert max(gaps) > 1  # sorted as a whole, neighbours would be 1 apart
    assert sum(gaps) / len(gaps) < 4


def test_without_a_seed_nothing_is_shuffled():
    sampler = PositionSampler(4, seed=None, batch=2, lengths=[9, 1, 8, 2])
    assert [index for _, index in sampler] == [1, 3, 2, 0]


def test_a_small_data_set_is_repeated_until_a_batch_is_full():
    order = [index for _, index in PositionSampler(3, seed=0, batch=8)]
    assert sorted(order[:3]) == [0, 1, 2] and order[3:] == order[:5]


def test_validation_sees_every_sample_as_often_as_it_has_noise_levels():
    repeated = Repeated([{"name": "a"}, {"name": "b"}], times=3)
    assert [repeated[i] for i in range(len(repeated))] == [
        {"name": name, "position": position} for position, name in enumerate("aaabbb")
    ]
