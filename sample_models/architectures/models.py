"""The architectures by name: a function for each, and a table of them with the shape of an input.

    bnfold convert vgg.safetensors --model models.py:vgg --input 1x1x28x28
"""

from __future__ import annotations

from collections.abc import Callable

from convmixer import ConvMixer
from crnn import CRNN
from densenet import DenseNet
from detector import Detector
from efficientnet import EfficientNet
from inception import Inception
from levit import LeViT
from mobilenet_v2 import MobileNetV2
from mobileone import MobileOne
from preactivation_resnet import PreactivationResNet
from repvgg import RepVGG
from resnet import ResNet
from resnet3d import ResNet3D
from torch import nn
from unet import UNet
from vgg import VGG


def vgg() -> nn.Module:
    """VGG with BatchNorm."""
    return VGG()


def inception_bn() -> nn.Module:
    """Inception with BatchNorm before each ReLU."""
    return Inception()


def resnet() -> nn.Module:
    """ResNet."""
    return ResNet()


def preactivation_resnet() -> nn.Module:
    """ResNet with BatchNorm and ReLU before each convolution."""
    return PreactivationResNet()


def densenet() -> nn.Module:
    """DenseNet-BC."""
    return DenseNet()


def mobilenet_v2() -> nn.Module:
    """MobileNetV2."""
    return MobileNetV2()


def efficientnet() -> nn.Module:
    """EfficientNet."""
    return EfficientNet()


def repvgg() -> nn.Module:
    """RepVGG in its training form."""
    return RepVGG()


def mobileone() -> nn.Module:
    """MobileOne in its training form."""
    return MobileOne()


def convmixer() -> nn.Module:
    """ConvMixer."""
    return ConvMixer()


def levit() -> nn.Module:
    """LeViT's attention and MLP blocks."""
    return LeViT()


def unet() -> nn.Module:
    """U-Net with transposed convolutions, one of them grouped."""
    return UNet()


def detector() -> nn.Module:
    """One head over three levels, a BatchNorm for each."""
    return Detector()


def crnn() -> nn.Module:
    """Convolutions, a bidirectional LSTM and a LayerNorm."""
    return CRNN()


def resnet3d() -> nn.Module:
    """ResNet over clips."""
    return ResNet3D()


def sigmoid_inception() -> nn.Module:
    """Inception with BatchNorm before each sigmoid, as in the paper (BN-x5-Sigmoid)."""
    return Inception(nn.Sigmoid)


def sigmoid_inception_after() -> nn.Module:
    """Inception with BatchNorm after each sigmoid: it can fold only forward."""
    return Inception(nn.Sigmoid, after=True)


DIGIT, COLOUR = (1, 1, 28, 28), (1, 3, 32, 32)
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (vgg, DIGIT),
    "inception_bn": (inception_bn, DIGIT),
    "resnet": (resnet, DIGIT),
    "preactivation_resnet": (preactivation_resnet, DIGIT),
    "densenet": (densenet, DIGIT),
    "mobilenet_v2": (mobilenet_v2, DIGIT),
    "efficientnet": (efficientnet, DIGIT),
    "repvgg": (repvgg, DIGIT),
    "mobileone": (mobileone, COLOUR),
    "convmixer": (convmixer, COLOUR),
    "levit": (levit, COLOUR),
    "unet": (unet, COLOUR),
    "detector": (detector, (1, 3, 64, 64)),
    "crnn": (crnn, (1, 1, 16, 64)),
    "resnet3d": (resnet3d, (1, 3, 8, 24, 24)),
    "sigmoid_inception": (sigmoid_inception, DIGIT),
    "sigmoid_inception_after": (sigmoid_inception_after, DIGIT),
}
