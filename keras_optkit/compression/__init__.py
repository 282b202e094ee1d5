"""Smaller models: pruning."""

from keras_optkit.compression._method import Candidates as Candidates
from keras_optkit.compression._method import Method as Method
from keras_optkit.compression._schedule import SparsitySchedule as SparsitySchedule
from keras_optkit.compression.block import Block as Block
from keras_optkit.compression.constant_sparsity import ConstantSparsity as ConstantSparsity
from keras_optkit.compression.from_tfmot import from_tfmot as from_tfmot
from keras_optkit.compression.frozen import Frozen as Frozen
from keras_optkit.compression.gradient import Gradient as Gradient
from keras_optkit.compression.magnitude import Magnitude as Magnitude
from keras_optkit.compression.movement import Movement as Movement
from keras_optkit.compression.n_of_m import NofM as NofM
from keras_optkit.compression.polynomial_sparsity import PolynomialSparsity as PolynomialSparsity
from keras_optkit.compression.prune_low_magnitude import UpdatePruningStep as UpdatePruningStep
from keras_optkit.compression.prune_low_magnitude import prune_low_magnitude as prune_low_magnitude
from keras_optkit.compression.prune_low_magnitude import strip_pruning as strip_pruning
from keras_optkit.compression.prune_once import prune_once as prune_once
from keras_optkit.compression.pruned import Pruned as Pruned
from keras_optkit.compression.random import Random as Random
from keras_optkit.compression.rigl import RigL as RigL
from keras_optkit.compression.set import SET as SET
from keras_optkit.compression.sparsity_report import SparsityReport as SparsityReport
from keras_optkit.compression.sparsity_report import SparsityRow as SparsityRow
from keras_optkit.compression.sparsity_report import sparsity_report as sparsity_report
