"""Smaller models: zeros, fewer channels, integers, and students of a teacher."""

from keras_optkit.compression import tfmot as tfmot
from keras_optkit.compression.channels.channel_group import ChannelGroup as ChannelGroup
from keras_optkit.compression.channels.channel_groups import channel_groups as channel_groups
from keras_optkit.compression.channels.channel_plan import ChannelPlan as ChannelPlan
from keras_optkit.compression.channels.prune_channels import prune_channels as prune_channels
from keras_optkit.compression.compression_report._report import (
    CompressionReport as CompressionReport,
)
from keras_optkit.compression.compression_report._report import CompressionRow as CompressionRow
from keras_optkit.compression.compression_report.compression_report import (
    compression_report as compression_report,
)
from keras_optkit.compression.distillation.attention_transfer import (
    AttentionTransfer as AttentionTransfer,
)
from keras_optkit.compression.distillation.decoupled_kd import DecoupledKD as DecoupledKD
from keras_optkit.compression.distillation.distiller import Distiller as Distiller
from keras_optkit.compression.distillation.feature_kd import FeatureKD as FeatureKD
from keras_optkit.compression.distillation.logits_kd import LogitsKD as LogitsKD
from keras_optkit.compression.distillation.relational_kd import RelationalKD as RelationalKD
from keras_optkit.compression.litert._rows import LiteRTFloatOp as LiteRTFloatOp
from keras_optkit.compression.litert._rows import LiteRTOp as LiteRTOp
from keras_optkit.compression.litert._rows import LiteRTTensor as LiteRTTensor
from keras_optkit.compression.litert._rows import LiteRTWeight as LiteRTWeight
from keras_optkit.compression.litert.export_litert import export_litert as export_litert
from keras_optkit.compression.litert.litert_latency import LiteRTLatency as LiteRTLatency
from keras_optkit.compression.litert.litert_latency import litert_latency as litert_latency
from keras_optkit.compression.litert.litert_model import LiteRTModel as LiteRTModel
from keras_optkit.compression.litert.litert_report import LiteRTReport as LiteRTReport
from keras_optkit.compression.litert.litert_report import litert_report as litert_report
from keras_optkit.compression.litert.quantize_post_training import (
    quantize_post_training as quantize_post_training,
)
from keras_optkit.compression.litert.run_litert import run_litert as run_litert
from keras_optkit.compression.pruning._method import Candidates as Candidates
from keras_optkit.compression.pruning._method import Method as Method
from keras_optkit.compression.pruning._schedule import SparsitySchedule as SparsitySchedule
from keras_optkit.compression.pruning.block import Block as Block
from keras_optkit.compression.pruning.constant_sparsity import ConstantSparsity as ConstantSparsity
from keras_optkit.compression.pruning.from_tfmot import from_tfmot as from_tfmot
from keras_optkit.compression.pruning.frozen import Frozen as Frozen
from keras_optkit.compression.pruning.gradient import Gradient as Gradient
from keras_optkit.compression.pruning.magnitude import Magnitude as Magnitude
from keras_optkit.compression.pruning.movement import Movement as Movement
from keras_optkit.compression.pruning.n_of_m import NofM as NofM
from keras_optkit.compression.pruning.polynomial_sparsity import (
    PolynomialSparsity as PolynomialSparsity,
)
from keras_optkit.compression.pruning.prune_low_magnitude import (
    prune_low_magnitude as prune_low_magnitude,
)
from keras_optkit.compression.pruning.prune_once import prune_once as prune_once
from keras_optkit.compression.pruning.pruned import Pruned as Pruned
from keras_optkit.compression.pruning.random import Random as Random
from keras_optkit.compression.pruning.rigl import RigL as RigL
from keras_optkit.compression.pruning.set import SET as SET
from keras_optkit.compression.pruning.sparsity_logger import SparsityLogger as SparsityLogger
from keras_optkit.compression.pruning.sparsity_report import SparsityReport as SparsityReport
from keras_optkit.compression.pruning.sparsity_report import SparsityRow as SparsityRow
from keras_optkit.compression.pruning.sparsity_report import sparsity_report as sparsity_report
from keras_optkit.compression.pruning.strip_pruning import strip_pruning as strip_pruning
from keras_optkit.compression.pruning.update_pruning_step import (
    UpdatePruningStep as UpdatePruningStep,
)
from keras_optkit.compression.quantization.calibrate import calibrate as calibrate
from keras_optkit.compression.quantization.freeze_quantization import (
    FreezeQuantization as FreezeQuantization,
)
from keras_optkit.compression.quantization.quantization_report import (
    QuantizationReport as QuantizationReport,
)
from keras_optkit.compression.quantization.quantization_report import (
    QuantizationRow as QuantizationRow,
)
from keras_optkit.compression.quantization.quantization_report import (
    quantization_report as quantization_report,
)
from keras_optkit.compression.quantization.quantize_activation import (
    QuantizeActivation as QuantizeActivation,
)
from keras_optkit.compression.quantization.quantize_model import quantize_model as quantize_model
from keras_optkit.compression.quantization.quantized_batch_norm import (
    QuantizedBatchNorm as QuantizedBatchNorm,
)
from keras_optkit.compression.quantization.quantized_layer import QuantizedLayer as QuantizedLayer
from keras_optkit.compression.quantization.quantized_rescaling import (
    QuantizedRescaling as QuantizedRescaling,
)
from keras_optkit.compression.quantization.strip_quantization import (
    strip_quantization as strip_quantization,
)
from keras_optkit.compression.quantization.uncalibrated import uncalibrated as uncalibrated
