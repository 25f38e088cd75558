module "policies" {
  source = "./policies"

  bucket = var.bucket
  prefix = var.prefix
}

locals {
  people = { for role, arns in var.principals : role => arns if length(arns) > 0 }
  roles  = setunion(keys(local.people), var.kubernetes == null ? [] : ["worker"])
}

data "aws_iam_policy_document" "trust" {
  for_each = local.roles

  dynamic "statement" {
    for_each = contains(keys(local.people), each.key) ? [local.people[each.key]] : []

    content {
      actions = ["sts:AssumeRole"]

      principals {
        type        = "AWS"
        identifiers = statement.value
      }
    }
  }

  dynamic "statement" {
    for_each = each.key == "worker" && var.kubernetes != null ? [var.kubernetes] : []

    content {
      actions = ["sts:AssumeRoleWithWebIdentity"]

      principals {
        type        = "Federated"
        identifiers = [statement.value.oidc_provider_arn]
      }

      condition {
        test     = "StringEquals"
        variable = "${split("oidc-provider/", statement.value.oidc_provider_arn)[1]}:sub"
        values   = ["system:serviceaccount:${statement.value.namespace}:${statement.value.service_account}"]
      }

      condition {
        test     = "StringEquals"
        variable = "${split("oidc-provider/", statement.value.oidc_provider_arn)[1]}:aud"
        values   = ["sts.amazonaws.com"]
      }
    }
  }
}

resource "aws_iam_role" "role" {
  for_each = local.roles

  name               = "${var.bucket}-${each.key}"
  description        = "world2act ${each.key} on s3://${var.bucket}/${module.policies.prefix}"
  assume_role_policy = data.aws_iam_policy_document.trust[each.key].json
}

resource "aws_iam_role_policy" "store" {
  for_each = local.roles

  name   = "store"
  role   = aws_iam_role.role[each.key].id
  policy = module.policies.roles[each.key]
}

data "aws_iam_policy_document" "key" {
  for_each = var.kms_key_arn == null ? toset([]) : local.roles

  statement {
    actions   = each.key == "robot" || each.key == "collector" ? ["kms:Decrypt"] : ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [var.kms_key_arn]
  }
}

resource "aws_iam_role_policy" "key" {
  for_each = data.aws_iam_policy_document.key

  name   = "key"
  role   = aws_iam_role.role[each.key].id
  policy = each.value.json
}
