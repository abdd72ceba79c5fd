"""The feature networks once more, in PyTorch and from their papers, to compare with.

Parameters have the names of the published files, so that `load_state_dict` takes them strictly.
"""

import torch
from torch import nn
from torch.nn import functional as F


class SameConv(nn.Conv2d):
    """TensorFlow's padding: as even as may be, the odd pixel below and on the right."""

    def forward(self, x):
        pads = []
        for n, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


class MobileBlock(nn.Module):
    def __init__(self, width, channels, kernel, stride, expansion):
        super().__init__()
        wide = width * expansion
        if expansion > 1:
            self._expand_conv = SameConv(width, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=1e-3)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = nn.BatchNorm2d(wide, eps=1e-3)
        self._project_conv = SameConv(wide, channels, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels, eps=1e-3)
        self.residual = stride == 1 and width == channels

    def forward(self, x):
        y = F.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_bn0") else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Table 1 of arXiv 1905.11946 (B0) without squeeze-and-excitation, with ReLU6."""

    def __init__(self):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        rows = [(16, 3, 1, 1)]
        rows += [(24, 3, 2, 6), (24, 3, 1, 6)]
        rows += [(40, 5, 2, 6), (40, 5, 1, 6)]
        rows += [(80, 3, 2, 6), (80, 3, 1, 6), (80, 3, 1, 6)]
        rows += [(112, 5, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6)]
        rows += [(192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6), (192, 5, 1, 6)]
        rows += [(320, 3, 1, 6)]
        widths = [32] + [row[0] for row in rows]
        self._blocks = nn.ModuleList(
            MobileBlock(width, *row) for width, row in zip(widths, rows, strict=False)
        )
        self._conv_head = SameConv(320, 1280, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(1280, eps=1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x):
        """Images [b, 3, 224, 224] in the network's scale -> features [b, 1280]."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


class ConvNorm(nn.Module):
    def __init__(self, width, channels, kernel, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(width, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def average(x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, width, pool):
        super().__init__()
        self.branch1x1 = ConvNorm(width, 64, 1)
        self.branch5x5_1 = ConvNorm(width, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvNorm(width, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, padding=1)
        self.branch_pool = ConvNorm(width, pool, 1)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], 1)


class B(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch3x3 = ConvNorm(width, 384, 3, 2)
        self.branch3x3dbl_1 = ConvNorm(width, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3, 2)

    def forward(self, x):
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, width, c):
        super().__init__()
        row, column = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvNorm(width, 192, 1)
        self.branch7x7_1 = ConvNorm(width, c, 1)
        self.branch7x7_2 = ConvNorm(c, c, **row)
        self.branch7x7_3 = ConvNorm(c, 192, **column)
        self.branch7x7dbl_1 = ConvNorm(width, c, 1)
        self.branch7x7dbl_2 = ConvNorm(c, c, **column)
        self.branch7x7dbl_3 = ConvNorm(c, c, **row)
        self.branch7x7dbl_4 = ConvNorm(c, c, **column)
        self.branch7x7dbl_5 = ConvNorm(c, 192, **row)
        self.branch_pool = ConvNorm(width, 192, 1)

    def forward(self, x):
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(average(x))], 1)


class D(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch3x3_1 = ConvNorm(width, 192, 1)
        self.branch3x3_2 = ConvNorm(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvNorm(width, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvNorm(192, 192, 3, 2)

    def forward(self, x):
        cross = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        square = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([square, self.branch7x7x3_4(cross), F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    def __init__(self, width, pool):
        super().__init__()
        row, column = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvNorm(width, 320, 1)
        self.branch3x3_1 = ConvNorm(width, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, **row)
        self.branch3x3_2b = ConvNorm(384, 384, **column)
        self.branch3x3dbl_1 = ConvNorm(width, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvNorm(384, 384, **row)
        self.branch3x3dbl_3b = ConvNorm(384, 384, **column)
        self.branch_pool = ConvNorm(width, 192, 1)
        self.pool = pool

    def forward(self, x):
        square = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(square), self.branch3x3_2b(square)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([*parts, self.branch_pool(self.pool(x))], 1)


class FidInception(nn.Module):
    """Table 1 of arXiv 1512.00567 with the pools of the FID's network."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a = B(288)
        self.Mixed_6b, self.Mixed_6c = C(768, 128), C(768, 160)
        self.Mixed_6d, self.Mixed_6e = C(768, 160), C(768, 192)
        self.Mixed_7a = D(768)
        self.Mixed_7b = E(1280, average)
        self.Mixed_7c = E(2048, lambda x: F.max_pool2d(x, 3, 1, 1))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        """Images [b, 3, 299, 299] in [-1, 1] -> features [b, 2048] and logits [b, 1008]."""
        for name, layer in self.named_children():
            if name == "fc":
                x = x.mean((2, 3))
                return x, layer(x)
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, 2)
        raise AssertionError


def randomised(network, seed=0):
    """The network in evaluation, with statistics of its normalisations drawn as well."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    return network.eval()
