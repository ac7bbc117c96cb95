"""The network of UMEML: masks, padding, missing modalities, registers, and every kind of second token set."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wsikit.models.umeml.blocks import QueryAttention, assignment_of, attention_of
from wsikit.models.umeml.config import PatchConfig, UmemlConfig
from wsikit.models.umeml.network import UMEML, UmemlOutput
from wsikit.models.umeml.pathology import PathologyEncoder

TASKS = [
    {"name": "os", "kind": "survival", "outputs": 4},
    {"name": "cox", "kind": "cox", "outputs": 1},
    {"name": "who", "kind": "classification", "outputs": 3},
    {"name": "grade", "kind": "ordinal", "outputs": 3},
]


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(**settings: Any) -> UMEML:
    usual: dict[str, Any] = {
        "width": 16,
        "patches": {"width": 5, "prototypes": 4, "heads": 2},
        "tokens": {"genes": {"kind": "groups", "groups": [[0, 1], [1, 2, 3]], "heads": 2}},
        "decoder": {"heads": 2},
        "modularity": {"communities": 3},
        "tasks": TASKS,
    }
    torch.manual_seed(0)
    return UMEML(UmemlConfig.model_validate(usual | settings)).eval()


def same(first: UmemlOutput, second: UmemlOutput, rows: slice = slice(None)) -> None:
    for task, found in first.tasks.items():
        torch.testing.assert_close(found[rows], second.tasks[task][rows], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalisation", ["slots", "patches"])
@pytest.mark.parametrize("cross_attention", [False, True])
def test_the_order_of_patches_and_padding_change_nothing(normalisation: str, cross_attention: bool) -> None:
    model = network(
        patches={
            "width": 5, "prototypes": 4, "heads": 2, "normalisation": normalisation, "cross_attention": cross_attention
        }
    )  # fmt: skip
    patches, genes = some(2, 7, 5), {"genes": some(2, 4, seed=1)}
    plain = model(patches, None, genes)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    same(model(patches[:, order], None, genes), plain)
    padded = torch.cat([patches, 100 * some(2, 3, 5, seed=3)], dim=1)
    mask = torch.arange(10).expand(2, 10) < 7
    found = model(padded, mask, genes)
    same(found, plain)
    torch.testing.assert_close(found.communities.loss, plain.communities.loss)
    assert found.prototypes.assignment[:, :, 7:].abs().max().item() == 0.0
    assert found.prototypes.attention[:, :, 7:].abs().max().item() == 0.0


@pytest.mark.parametrize("normalisation", ["slots", "patches"])
def test_assignments_sum_to_one_over_prototypes_and_attention_over_patches(normalisation: str) -> None:
    encoder = PathologyEncoder(PatchConfig(width=5, prototypes=6, heads=2, normalisation=normalisation), 16).eval()  # type: ignore[arg-type]
    mask = torch.arange(9).expand(3, 9) < torch.tensor([[9], [4], [0]])
    found = encoder(some(3, 9, 5), mask)
    torch.testing.assert_close(found.assignment.sum(dim=1), mask.float())
    torch.testing.assert_close(found.attention.sum(dim=2), mask.any(dim=1)[:, None].float().expand(3, 6))


def test_query_attention_is_torchs_multi_head_attention() -> None:
    """Moving the projections from the patches to the queries changes no value."""
    torch.manual_seed(0)
    ours = QueryAttention(16, heads=4, normalisation="patches").double()
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key, ours.value]))
        theirs.in_proj_bias.zero_()
        theirs.in_proj_bias[:16] = ours.query.bias
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, patches, mask = some(2, 3, 16).double(), some(2, 8, 16, seed=1).double(), torch.arange(8) < 6
    found, scores = ours(queries, patches, mask.expand(2, 8))
    attention = attention_of(scores, mask.expand(2, 8), "patches")
    expected, weights = theirs(queries, patches, patches, key_padding_mask=~mask.expand(2, 8))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(attention, weights)


def test_slots_compete_so_that_one_prototype_can_not_take_all() -> None:
    """The weights of a slot are its shares of the patches: multiplying them by a constant changes nothing."""
    attend = QueryAttention(8, heads=1, normalisation="slots").double()
    queries, patches = some(1, 2, 8).double(), some(1, 5, 8, seed=1).double()
    _, scores = attend(queries, patches, None)
    attention, assignment = attention_of(scores, None, "slots"), assignment_of(scores, None)
    torch.testing.assert_close(attention, assignment / assignment.sum(dim=2, keepdim=True))


def test_shared_pooling_makes_a_prototype_of_what_its_map_shows() -> None:
    attend = QueryAttention(8, heads=2, normalisation="slots", pooling="shared").double()
    queries, patches = some(1, 3, 8).double(), some(1, 5, 8, seed=1).double()
    found, scores = attend(queries, patches, None)
    expected = attend.out(attention_of(scores, None, "slots") @ patches @ attend.value.T)
    torch.testing.assert_close(found, expected)


def test_dropout_of_features_equals_patches_without_them() -> None:
    attend = QueryAttention(8, heads=2, normalisation="slots").double()
    queries, patches = some(2, 3, 8).double(), some(2, 5, 8, seed=1).double()
    keep = (some(2, 8, seed=2).double() > 0) / 0.5
    found, _ = attend(queries, patches, None, keep)
    torch.testing.assert_close(found, attend(queries, patches * keep[:, None, :], None)[0])


@pytest.mark.parametrize("bidirectional", [0, 1])
def test_missing_genes_equal_a_run_without_genes_and_missing_patches_one_without_patches(bidirectional: int) -> None:
    missing_is_absent(network(decoder={"heads": 2, "bidirectional": bidirectional}), "os")


def missing_is_absent(model: UMEML, task: str) -> None:
    """A modality that is left out, masked or unknown gives the results of a run without it, and other ones with it."""
    patches, genes = some(3, 6, 5), some(3, 4, seed=1)
    path_only = model(patches)
    same(model(patches, None, {"genes": genes}, present=torch.tensor([[True, False]] * 3)), path_only)
    same(model(patches, None, {"genes": torch.full((3, 4), float("nan"))}), path_only)
    gene_only = model(values={"genes": genes})
    same(model(patches, torch.zeros(3, 6, dtype=torch.bool), {"genes": genes}), gene_only)
    whole = model(patches, None, {"genes": genes})
    assert not torch.allclose(whole.tasks[task], path_only.tasks[task])
    assert not torch.allclose(whole.tasks[task], gene_only.tasks[task])


def test_one_patient_does_not_depend_on_the_batch() -> None:
    model, patches, genes = network(), some(3, 6, 5), some(3, 4, seed=1)
    genes[1] = float("nan")
    mask = torch.arange(6).expand(3, 6) < torch.tensor([[6], [2], [0]])
    together = model(patches, mask, {"genes": genes})
    alone = model(patches[1:2, :2], None, {})
    for task, found in alone.tasks.items():
        torch.testing.assert_close(found[0], together.tasks[task][1], atol=1e-5, rtol=1e-5)


def test_registers_can_be_left_out_and_the_shapes_stay() -> None:
    model, patches = network(), some(2, 6, 5)
    with_them, without = model(patches), model(patches, registers=False)
    for task, found in with_them.tasks.items():
        assert found.shape == without.tasks[task].shape
    assert not torch.allclose(with_them.states, without.states)
    none = network(decoder={"heads": 2, "registers": 0})
    same(none(patches), none(patches, registers=False))


def test_modality_dropout_never_takes_the_last_modality_and_is_off_in_use() -> None:
    model, patches, genes = network(modality_dropout=0.9), some(64, 2, 5), {"genes": some(64, 4, seed=1)}
    same(model(patches, None, genes), model(patches, None, genes))
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    model.train()(patches, None, genes)
    by_modality = torch.stack([seen[0][:, :4].any(dim=1), seen[0][:, 5:7].any(dim=1)], dim=1)
    assert bool(by_modality.any(dim=1).all())
    assert 0.5 < float((~by_modality).any(dim=1).float().mean()) < 1.0


@pytest.mark.parametrize(
    ("kind", "settings", "values"),
    [
        ("groups", {"groups": [[0, 1], [2, 3]]}, some(2, 4)),
        ("learned", {"columns": 4, "groups": 3}, some(2, 4)),
        ("row", {"columns": 4}, torch.tensor([[1.0, float("nan"), 0.0, 2.0], [0.0, 1.0, 2.0, 3.0]])),
        ("sequence", {"width": 4}, torch.cat([some(2, 3, 4), torch.full((2, 2, 4), float("nan"))], dim=1)),
    ],
)
def test_every_kind_of_second_tokens_works_without_slides_and_learns(
    kind: str, settings: dict[str, Any], values: Tensor
) -> None:
    model = network(patches=None, tokens={"other": {"kind": kind, "heads": 2, **settings}}).train()
    found = model(values={"other": values})
    (sum(task.sum() for task in found.tasks.values()) + found.communities.loss.sum()).backward()
    for name, parameter in model.tokens.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    assert [found.tasks[task["name"]].shape[1] for task in TASKS] == [4, 1, 3, 3]


def test_sentences_of_unequal_number_are_padded_without_effect() -> None:
    model = network(patches=None, tokens={"captions": {"kind": "sequence", "width": 4, "heads": 2}})
    sentences = some(1, 3, 4)
    padded = torch.cat([sentences, torch.full((1, 4, 4), float("nan"))], dim=1)
    same(model(values={"captions": sentences}), model(values={"captions": padded}))


def test_direct_columns_start_without_effect_and_enter_the_heads_linearly() -> None:
    model = network(direct=["patches", "genes"])
    patches, direct, genes = some(2, 6, 5), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), {"genes": some(2, 4, seed=1)}
    same(model(patches, None, genes, direct=direct), model(patches, None, genes))
    with torch.no_grad():
        model.heads["cox"].direct.weight.copy_(torch.tensor([[1.0, 10.0]]))
    added = model(patches, None, genes, direct=direct).tasks["cox"] - model(patches, None, genes).tasks["cox"]
    torch.testing.assert_close(added, torch.tensor([[21.0], [43.0]]), atol=1e-4, rtol=1e-4)
    # those of a missing table count as 0
    same(model(patches, direct=direct), model(patches, direct=torch.tensor([[1.0, 0.0], [3.0, 0.0]])))


def test_token_sets_of_one_table_are_dropped_together() -> None:
    sets = {name: {"kind": "row", "columns": 2, "heads": 2} for name in ("rna", "components", "clinical")}
    model = network(patches=None, tokens=sets, sources={"components": "rna"}, modality_dropout=0.9).train()
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    model(values={name: some(64, 2) for name in sets})
    rna, components, clinical = (seen[0][:, at] for at in (0, 3, 6))
    assert bool((rna == components).all())
    assert bool((rna | clinical).all())
    assert not bool(rna.all())
    assert not bool(clinical.all())


def test_standardising_inside_the_weights_equals_standardised_patches() -> None:
    model, patches, mean, scale = network(), some(2, 6, 5), some(5, seed=1), some(5, seed=2).abs() + 0.1
    plain = model(patches)
    model.pathology.mean.copy_(mean)
    model.pathology.scale.copy_(scale)
    same(model(patches * scale + mean), plain)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"patches": None, "tokens": {}}, "nothing to learn from"),
        ({"tasks": []}, "at least one"),
        ({"width": 17}, "not a multiple"),
        ({"patches": None, "decoder": {"heads": 2, "bidirectional": 1}}, "needs patches and tokens"),
        ({"tasks": [{"name": "os", "kind": "cox", "outputs": 3}]}, "cox has 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        network(**settings)


def test_an_input_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="the network has patches, genes"):
        network()(some(1, 2, 5), None, {"proteins": some(1, 3)})


def test_a_product_needs_both_modalities() -> None:
    model = network(decoder={"heads": 2, "product": 3})
    patches, genes = some(3, 6, 5), some(3, 4, seed=1)
    path_only = model(patches)
    same(model(patches, None, {"genes": torch.full((3, 4), float("nan"))}), path_only)
    same(model(patches, None, {"genes": genes}, present=torch.tensor([[True, False]] * 3)), path_only)
    assert model.product is not None
    before = model(patches, None, {"genes": genes}).states
    with torch.no_grad():
        model.product.out.weight.zero_()
    assert not torch.allclose(before, model(patches, None, {"genes": genes}).states)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": {"heads": 2, "product": 3}, "patches": None}, "decoder.product: needs patches"),
    ],
)
def test_parts_that_need_others_are_refused_without_them(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        network(**changes)
